// Conversations in the browser's IndexedDB; in memory where a browser has none to give.

const NAME = "qwen35cpp";

function request(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

class Memory {
  #chats = new Map();
  async all() { return [...this.#chats.values()]; }
  async put(chat) { this.#chats.set(chat.id, structuredClone(chat)); }
  async remove(id) { this.#chats.delete(id); }
}

class Database {
  #db;
  constructor(db) { this.#db = db; }
  all() { return request(this.#db.transaction("chats").objectStore("chats").getAll()); }
  put(chat) { return this.#change((chats) => chats.put(structuredClone(chat))); }
  remove(id) { return this.#change((chats) => chats.delete(id)); }

  // Done when it is committed: a page that is left before would undo it.
  #change(change) {
    return new Promise((resolve, reject) => {
      const transaction = this.#db.transaction("chats", "readwrite");
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
      change(transaction.objectStore("chats"));
    });
  }
}

export async function openStore() {
  try {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("chats", { keyPath: "id" });
    return new Database(await request(asked));
  } catch {
    return new Memory();
  }
}

export const settings = {
  get(name) {
    try { return localStorage.getItem(`${NAME}.${name}`) ?? ""; } catch { return ""; }
  },
  set(name, value) {
    try { localStorage.setItem(`${NAME}.${name}`, value); } catch { /* private windows */ }
  },
};
