/** Finished images, kept in this browser's IndexedDB. Without it they last until the page is closed. */

const NAME = "bitvar";
const IMAGES = "images";

/** Images by their id. */
export class GalleryDb {
  /** @type {IDBDatabase | null} */
  #database = null;

  /** Open the database. @returns {Promise<boolean>}  whether images will be kept */
  async open() {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(IMAGES, { keyPath: "id" });
      this.#database = await settled(request);
      return true;
    } catch {
      return false;
    }
  }

  /** @returns {Promise<import("./items.js").Item[]>} */
  async all() {
    return this.#database ? settled(this.#images("readonly").getAll()) : [];
  }

  /** @param {import("./items.js").Item[]} items */
  async put(items) {
    if (!this.#database) return;
    const images = this.#images("readwrite");
    await Promise.all(items.map((item) => settled(images.put(item))));
  }

  /** @param {string[]} ids */
  async remove(ids) {
    if (!this.#database) return;
    const images = this.#images("readwrite");
    await Promise.all(ids.map((id) => settled(images.delete(id))));
  }

  /** @param {IDBTransactionMode} mode */
  #images(mode) {
    return /** @type {IDBDatabase} */ (this.#database).transaction(IMAGES, mode).objectStore(IMAGES);
  }
}

/**
 * @template Value
 * @param {IDBRequest<Value>} request
 * @returns {Promise<Value>}
 */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
