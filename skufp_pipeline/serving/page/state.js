// What is looked for, as it stands in the address: a link holds a whole search, Back goes to the one before.

export const TOP = 24; // answers at first
export const MOST = 100; // answers that the service gives
export const PHOTOS = 8; // of one item, that it takes

/** Nothing is looked for. `also` are further photos of the item; `near` are the products that "More like this" went through, the last one in use. */
export const nothing = () => ({
  photo: null,
  also: [],
  item: null,
  box: null,
  whole: false,
  text: "",
  weight: 0.5,
  not: [],
  like: [],
  unlike: [],
  near: [],
  where: {},
  index: null,
  beside: null,
  top: TOP,
});

/** Returns the search that an address holds; what it can't read is left out. */
export function parse(query) {
  const given = new URLSearchParams(query);
  const state = nothing();
  state.photo = given.get("photo");
  if (state.photo) state.also = given.getAll("also").filter(Boolean).slice(0, PHOTOS - 1);
  const item = Number(given.get("item"));
  if (Number.isInteger(item) && item > 0) state.item = item;
  const box = (given.get("box") ?? "").split(",").map(Number);
  if (box.length === 4 && box.every((edge) => Number.isInteger(edge) && edge >= 0)) state.box = box;
  state.whole = given.has("whole");
  state.text = given.get("q") ?? "";
  const weight = Number(given.get("weight") ?? NaN);
  if (weight >= 0 && weight <= 1) state.weight = weight;
  for (const name of ["not", "like", "unlike", "near"]) state[name] = given.getAll(name).filter(Boolean);
  for (const [name, value] of given) {
    const column = name.slice(2);
    if (name.startsWith("f.")) (state.where[column] ??= []).push(value);
    if (name.startsWith("r.")) {
      const [gte, lte] = value.split("..");
      const range = { ...(gte && { gte: typed(gte) }), ...(lte && { lte: typed(lte) }) };
      if (Object.keys(range).length) state.where[column] = range;
    }
  }
  state.index = given.get("index");
  state.beside = given.get("beside");
  const top = Number(given.get("top"));
  if (Number.isInteger(top) && top > TOP && top <= MOST) state.top = top;
  return state;
}

const typed = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

/** Returns the address of a search; what else is in the present one, such as ?lang=, stays. */
export function format(state) {
  const query = new URLSearchParams();
  const lang = new URLSearchParams(location.search).get("lang");
  if (lang) query.set("lang", lang);
  if (state.photo) query.set("photo", state.photo);
  for (const id of state.also) query.append("also", id);
  if (state.item) query.set("item", state.item);
  if (state.box) query.set("box", state.box.join(","));
  if (state.whole) query.set("whole", "1");
  if (state.text) query.set("q", state.text);
  if (state.photo && state.text && state.weight !== 0.5) query.set("weight", state.weight);
  for (const name of ["not", "like", "unlike", "near"])
    for (const value of state[name]) query.append(name, value);
  for (const [column, chosen] of Object.entries(state.where)) {
    if (Array.isArray(chosen)) for (const value of chosen) query.append(`f.${column}`, value);
    else query.set(`r.${column}`, `${chosen.gte ?? ""}..${chosen.lte ?? ""}`);
  }
  if (state.index) query.set("index", state.index);
  if (state.beside) query.set("beside", state.beside);
  if (state.top !== TOP) query.set("top", state.top);
  const text = query.toString();
  return location.pathname + (text ? `?${text}` : "");
}

/** Whether a search can be asked: words to avoid, dislikes and filters only change one. */
export const asks = (state) =>
  Boolean(state.photo || state.text.trim() || state.like.length || state.near.length);

/** Returns the region of a state as the service takes it. */
export function regionOf(state) {
  if (state.box) return { box: state.box };
  if (state.item) return { item: state.item };
  return state.whole ? { whole: true } : {};
}

/** Returns the body of the search. */
export function searchBody(state, index) {
  const body = { top: state.top, facets: MOST, index };
  if (Object.keys(state.where).length) body.where = state.where;
  if (state.near.length) return { ...body, like: [state.near.at(-1)] };
  if (state.also.length) body.photo_ids = [state.photo, ...state.also];
  else if (state.photo) Object.assign(body, { photo_id: state.photo }, regionOf(state));
  if (state.text.trim()) body.text = state.text.trim();
  if (state.photo && body.text) body.text_weight = state.weight;
  if (state.not.length) body.not_text = state.not;
  if (state.like.length) body.like = state.like;
  if (state.unlike.length) body.unlike = state.unlike;
  return body;
}
