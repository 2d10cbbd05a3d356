/* Elements. Names, tags, bodies and errors come from strangers: text gets into the page as text nodes and attributes only. */

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: el("button", { class: "quiet", onclick: act }, "Text", node). False and null attributes are left out. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Make an element of SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else setAttribute(node, name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set or remove an attribute, if that is a change. */
export function setAttribute(node, name, value) {
  if (value === false || value === null || value === undefined) node.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}

/** Set the text of an element, and say whether that is a change. */
export function setText(node, text) {
  if (node.textContent === text) return false;
  node.textContent = text;
  return true;
}

/** Make `parent` hold exactly `children`, in order; those that stay in place keep focus, selection and scrolling. */
export function setChildren(parent, children) {
  const wanted = new Set(children);
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const child of children) {
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

let lastId = 0;

/** Return an id for an element that a label or a description names. */
export function newId(prefix = "e") {
  lastId += 1;
  return `${prefix}${lastId}`;
}
