"use strict";
// Sorting by a column and choosing rows by a text; without scripts the table is in the order of the samples.

const table = document.querySelector("table.cohort");
const body = table.tBodies[0];
const rows = Array.from(body.rows);

function valueOf(row, column) {
	const cell = row.cells[column];
	if (!("value" in cell.dataset)) return cell.textContent.toLowerCase();
	return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compare(a, b) {
	if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
	return a - b;
}

function sortBy(heading) {
	const ascending = heading.getAttribute("aria-sort") !== "ascending";
	const keyed = rows.map((row) => [valueOf(row, heading.cellIndex), row]);
	keyed.sort(([a], [b]) => {
		if (a === null || b === null) return (a === null) - (b === null);  // what is not known stays last
		return ascending ? compare(a, b) : compare(b, a);
	});
	body.append(...keyed.map(([, row]) => row));
	for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
	heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

for (const heading of table.tHead.rows[0].cells) {
	heading.querySelector("button").addEventListener("click", () => sortBy(heading));
}

const input = document.getElementById("filter");
const shown = document.getElementById("shown");
input.addEventListener("input", () => {
	const wanted = input.value.trim().toLowerCase();
	let count = 0;
	for (const row of rows) {
		const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
		row.hidden = !text.includes(wanted);
		count += row.hidden ? 0 : 1;
	}
	shown.textContent = wanted ? `${count} of ${rows.length}` : "";
});
