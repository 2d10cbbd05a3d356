/* Light or dark, before anything is painted: as the system says, unless somebody has chosen. */

document.documentElement.dataset.theme = localStorage.getItem("zbusrpc-theme") ?? "system";
