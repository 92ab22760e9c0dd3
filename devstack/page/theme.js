// Runs before the first paint, so that a chosen theme never flashes the other one.
"use strict";
try {
  const chosen = localStorage.getItem("herald.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is blocked: the system's preference holds.
}
