/* Light or dark, before anything is painted: as the system says, unless somebody has chosen. */

try {
  document.documentElement.dataset.theme = localStorage.getItem("zbusrpc-theme") ?? "system";
} catch {
  document.documentElement.dataset.theme = "system"; // a browser that keeps nothing
}
