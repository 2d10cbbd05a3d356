/* What is wrong with a page for somebody who cannot see it, or not well: a list of lines, empty where all is well.

Names of what can be used, order of headings, captions and headers of tables, references of labels, contrast of texts (WCAG 2.2: 1.4.3). */

() => {
  const problems = [];
  const seen = (element) => element.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true });
  const shown = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const told = (element) => element.outerHTML.slice(0, 120);

  const textOf = (ids) =>
    ids
      .split(/\s+/)
      .map((id) => document.getElementById(id)?.textContent ?? "")
      .join(" ");
  const nameOf = (element) => {
    if (element.ariaLabel) return element.ariaLabel;
    if (element.hasAttribute("aria-labelledby")) return textOf(element.getAttribute("aria-labelledby"));
    if (element.labels?.length) return [...element.labels].map((label) => label.textContent).join(" ");
    return element.matches("input, select, textarea") ? "" : element.textContent;
  };
  for (const element of shown("button, a, input, select, textarea, dialog, [role=region], [role=tablist], aside")) {
    if (!nameOf(element).trim()) problems.push(`no name: ${told(element)}`);
  }

  let level = 0;
  const scope = document.querySelector("dialog[open]") ? "dialog[open] " : "";
  if (scope) level = 1;
  for (const heading of shown(["h1", "h2", "h3", "h4"].map((name) => scope + name).join())) {
    const own = Number(heading.localName[1]);
    if (own > level + 1) problems.push(`h${own} after h${level}: ${told(heading)}`);
    level = own;
  }

  for (const table of shown("table")) {
    if (!table.caption?.textContent) problems.push(`no caption: ${told(table)}`);
    for (const cell of table.querySelectorAll("th")) if (!cell.scope) problems.push(`no scope: ${told(cell)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size < ids.length)
    problems.push(`ids that are there twice: ${ids.filter((id, at) => ids.indexOf(id) < at)}`);
  for (const element of document.querySelectorAll(
    "[aria-labelledby], [aria-describedby], [aria-controls], label[for]",
  )) {
    const named = ["aria-labelledby", "aria-describedby", "aria-controls", "for"].map(
      (name) => element.getAttribute(name) ?? "",
    );
    for (const id of named.join(" ").split(/\s+/).filter(Boolean)) {
      if (!document.getElementById(id)) problems.push(`nothing is called ${id}: ${told(element)}`);
    }
  }

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const [red, green, blue] = rgba(color).map((value) =>
      value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  const walker = document.createTreeWalker(
    document.querySelector("dialog[open]") ?? document.body,
    NodeFilter.SHOW_TEXT,
  );
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(element) || element.closest("script, noscript, option")) continue;
    const [front, back] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (contrast < 4.5) problems.push(`contrast ${contrast.toFixed(2)}: ${told(element)}`);
  }
  return problems;
};
