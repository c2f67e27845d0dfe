// Photos: prepared, sent, and kept on this device so that one that the service has forgotten can be sent again.

import { ask } from "./api.js";

const KEPT = 12; // photos on this device
const SIDE = 4096; // pixels of the longer side of a photo that had to be made smaller
const memory = new Map(); // by every id that a photo has had

/** Sends a photo; returns what is known of it: photo_id, size, items, and the blob itself. */
export async function sendPhoto(file, limit, options) {
  return send(await prepared(file, limit), [], options);
}

/** Sends a photo that the service has forgotten once more; it keeps its old ids on this device. */
export const sendAgain = (photo, options) => send(photo.blob, photo.ids, options);

async function send(blob, ids, options) {
  const form = new FormData();
  form.append("photo", blob, "photo");
  const answer = await ask("photos", { form, ...options });
  const photo = { ...answer, blob, time: Date.now(), ids: [...ids, answer.photo_id] };
  await keep({ ...photo, key: photo.ids[0] });
  return photo;
}

/** Returns the photo as the service takes it: HEIC as JPEG, and smaller where it exceeds `limit` bytes.
 * What this browser can't read is sent as it is; the service says what to do. */
export async function prepared(file, limit) {
  const heic = /hei[cf]/i.test(file.type) || /\.hei[cf]$/i.test(file.name ?? "");
  if (!heic && file.size <= limit) return file;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file;
  }
  for (let side = heic ? Math.max(bitmap.width, bitmap.height) : SIDE; ; side = Math.round(side * 0.75)) {
    const blob = await jpeg(bitmap, side);
    if (blob.size <= limit || side < 256) return blob;
  }
}

function jpeg(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(
    Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)),
  );
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

/** Keeps a photo in memory and, where the browser lets us, on this device. */
async function keep(photo) {
  for (const id of photo.ids) memory.set(id, photo);
  await withStore("readwrite", (store) => store.put(photo));
  const old = (await onDevice()).sort((one, other) => other.time - one.time).slice(KEPT);
  for (const each of old) await withStore("readwrite", (store) => store.delete(each.key));
}

const onDevice = async () => (await withStore("readonly", (store) => store.getAll())) ?? [];

/** Returns a photo that is kept on this device by any id that it has had, or null. */
export async function kept(id) {
  if (!memory.has(id))
    for (const photo of await onDevice()) for (const each of photo.ids) memory.set(each, photo);
  return memory.get(id) ?? null;
}

/** Forgets every photo on this device. */
export async function forgetPhotos() {
  memory.clear();
  await withStore("readwrite", (store) => store.clear());
}

/** Runs one request on the device's store; without one (private windows), returns undefined. */
async function withStore(mode, act) {
  try {
    const base = await opened();
    return await promised(act(base.transaction("photos", mode).objectStore("photos")));
  } catch {
    return undefined; // memory alone
  }
}

let opening;
function opened() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("skufp", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("photos", { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

const promised = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
