// Files that are dropped, pasted or chosen: pictures become data URLs of a size that models look at, others must be text.

const PICTURES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const PICTURE_BYTES = 4 << 20; // larger ones are drawn again, smaller
const PICTURE_SIDE = 2048;
const TEXT_BYTES = 1 << 20;

/** {image: data URL} or {file: {name, text}}. Raises Error with what is wrong with the file. */
export async function readFile(file) {
  if (file.type.startsWith("image/")) return { image: await readPicture(file) };
  if (file.size > TEXT_BYTES) throw new Error(`${file.name} is larger than ${TEXT_BYTES >> 20} MiB of text.`);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (text.includes("\0")) throw new TypeError();
    return { file: { name: file.name || "pasted.txt", text } };
  } catch {
    throw new Error(`${file.name} is neither a picture nor text in UTF-8.`);
  }
}

async function readPicture(file) {
  if (PICTURES.includes(file.type) && file.size <= PICTURE_BYTES) return dataUrl(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} cannot be read as a picture.`);
  }
  const scale = Math.min(1, PICTURE_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return dataUrl(await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9)));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
