// Before the first paint: the theme that was chosen here, so that the page does not flash in the other one.
try {
  const theme = localStorage.getItem("shortlist-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // storage is switched off: the system's theme it is
}
