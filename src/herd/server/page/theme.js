// Runs before anything is painted, so that a page in the dark theme never flashes white.
"use strict";
{
  const chosen = localStorage.getItem("herd.theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
