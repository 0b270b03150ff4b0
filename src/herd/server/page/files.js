// Files that are dropped, pasted or chosen: pictures become data URLs of a size that models look at, others must be text.
// What cannot be sent is said here, before anything is: limits of size first, then whether it can be read at all.

const MIB = 1 << 20;
const PICTURES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const PICTURE_BYTES = 4 * MIB; // larger ones are drawn again, smaller
const PICTURE_SIDE = 2048;
const SIDE_AS_IT_IS = 8192; // pixels; a picture that is larger is drawn again, however few bytes it has
const MOST_BYTES = 64 * MIB; // of a picture file
const TEXT_BYTES = MIB;

/** {image: data URL} or {file: {name, text}}. Raises Error with what is wrong with the file. */
export async function readFile(file) {
  const name = file.name || "pasted.txt";
  if (file.type.startsWith("image/")) return { image: await readPicture(file, name) };
  if (file.size > TEXT_BYTES) throw new Error(`${name} is larger than ${TEXT_BYTES / MIB} MiB of text.`);
  if (file.size === 0) throw new Error(`${name} is empty.`);
  const bytes = await bytesOf(file, name);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (text.includes("\0")) throw new TypeError();
    return { file: { name, text } };
  } catch {
    throw new Error(`${name} is neither a picture nor text in UTF-8.`);
  }
}

async function bytesOf(file, name) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Error(`${name} cannot be read: it is a folder, or it was moved or is not yours to read.`);
  }
}

async function readPicture(file, name) {
  if (file.size > MOST_BYTES) throw new Error(`${name} is larger than ${MOST_BYTES / MIB} MiB.`);
  const picture = new Blob([await bytesOf(file, name)], { type: file.type });
  let bitmap;
  try {
    bitmap = await createImageBitmap(picture);
  } catch {
    throw new Error(`${name} cannot be read as a picture.`);
  }
  const { width, height } = bitmap;
  const asItIs = PICTURES.includes(file.type) && file.size <= PICTURE_BYTES && Math.max(width, height) <= SIDE_AS_IT_IS;
  const sent = asItIs ? picture : await drawnAgain(bitmap);
  bitmap.close();
  if (!sent) throw new Error(`${name} is too large for this browser to make it smaller.`);
  return dataUrl(sent);
}

/** The picture as a JPEG, no larger than PICTURE_SIDE; null: the browser cannot. */
function drawnAgain(bitmap) {
  const scale = Math.min(1, PICTURE_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
