// Runs before the first paint, so that a chosen theme doesn't flash. The button that changes it is in main.js.
try {
  const theme = JSON.parse(localStorage.getItem("bitvar.theme") ?? "null");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage, the system's theme applies.
}
