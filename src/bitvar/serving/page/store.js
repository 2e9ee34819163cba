/**
 * A value that views watch. Changes of one task are shown together, in the next microtask.
 *
 * @template {object} State
 */
export class Store {
  /** @type {Set<(state: State) => void>} */
  #watchers = new Set();
  #scheduled = false;

  /** @param {State} state */
  constructor(state) {
    this.state = state;
  }

  /** @param {Partial<State>} changes */
  set(changes) {
    this.state = { ...this.state, ...changes };
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      for (const watcher of this.#watchers) watcher(this.state);
    });
  }

  /**
   * Call a view with the parts of the state that it shows, now and whenever one of them is another value.
   * @template Part
   * @param {(state: State) => Part[]} parts
   * @param {(...parts: any[]) => void} view
   */
  watch(parts, view) {
    /** @type {Part[] | null} */
    let shown = null;
    const update = (/** @type {State} */ state) => {
      const next = parts(state);
      if (shown && next.every((part, index) => Object.is(part, shown?.[index]))) return;
      shown = next;
      view(...next);
    };
    this.#watchers.add(update);
    update(this.state);
  }
}
