// The last searches, kept in this browser alone.

const NAME = "skufp.recent";
const MOST = 8;

/** Returns the last searches, newest first: address, words, photo id and time. */
export function recent() {
  try {
    const found = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(found)
      ? found.filter((each) => typeof each?.address === "string" && each.address.startsWith("?"))
      : [];
  } catch {
    return [];
  }
}

/** Remembers a search; one of the same subject takes the place of the older. */
export function remember(search) {
  const others = recent().filter((each) => each.subject !== search.subject);
  try {
    localStorage.setItem(NAME, JSON.stringify([{ ...search, time: Date.now() }, ...others].slice(0, MOST)));
  } catch {
    // a private window keeps nothing
  }
}

export function forgetSearches() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // nothing was kept
  }
}
