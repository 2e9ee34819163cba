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
    return this.#database ? settled(this.#images().getAll()) : [];
  }

  /** Returns once the items are on disk. @param {import("./items.js").Item[]} items */
  async put(items) {
    await this.#write((images) => items.forEach((item) => images.put(item)));
  }

  /** Returns once the items are gone from the disk. @param {string[]} ids */
  async remove(ids) {
    await this.#write((images) => ids.forEach((id) => images.delete(id)));
  }

  /**
   * Commit all changes at once. The explicit commit matters: a page that is closed or reloaded aborts every transaction
   * that has not begun to commit.
   * @param {(images: IDBObjectStore) => void} change
   */
  async #write(change) {
    if (!this.#database) return;
    const transaction = this.#database.transaction(IMAGES, "readwrite");
    change(transaction.objectStore(IMAGES));
    transaction.commit();
    await committed(transaction);
  }

  #images() {
    return /** @type {IDBDatabase} */ (this.#database).transaction(IMAGES, "readonly").objectStore(IMAGES);
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

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}
