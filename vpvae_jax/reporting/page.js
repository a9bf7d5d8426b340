"use strict";

// Sort a table by the column whose head is clicked; again for the other direction. Cells without a number come last.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const body = head.closest("table").tBodies[0];
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const isMissing = (value) => typeof value === "string" && /^-( |$)/.test(value);
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y);
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
    }));
  });
}

// Magnify all pictures of a group around the pointer, if it is on one of them.
for (const group of document.querySelectorAll(".group")) {
  const images = [...group.querySelectorAll(".lens img")];
  let zoom = 4;
  const show = (event, scale) => {
    const lens = event.target.closest(".lens");
    if (!lens) return;
    const box = lens.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const y = (100 * (event.clientY - box.top)) / box.height;
    for (const image of images) {
      image.style.transformOrigin = `${x}% ${y}%`;
      image.style.transform = `scale(${scale})`;
    }
  };
  group.addEventListener("pointermove", (event) => show(event, zoom));
  group.addEventListener("wheel", (event) => {
    if (!event.target.closest(".lens")) return;
    event.preventDefault();
    zoom = Math.min(32, Math.max(1, zoom * (event.deltaY < 0 ? 1.25 : 0.8)));
    show(event, zoom);
  }, { passive: false });
  group.addEventListener("pointerleave", () => {
    for (const image of images) image.style.transform = "";
  });
}
