"use strict";
// Sorting, filtering and choosing a signal group. Without scripts the page shows all groups, sorted by their ranks.

const MISSING = Number.NEGATIVE_INFINITY;

function valueOf(row, column) {
	const text = row.cells[column].textContent.trim();
	if (row.cells[column].tagName === "TH") return text.toLowerCase();
	const number = Number.parseFloat(text.replace("−", "-").replace("<", ""));
	return Number.isNaN(number) ? MISSING : number;
}

function sortBy(table, heading, direction) {
	const column = heading.cellIndex;
	const body = table.tBodies[0];
	const keyed = Array.from(body.rows, (row) => [valueOf(row, column), row]);
	const sign = direction === "ascending" ? 1 : -1;
	keyed.sort(([a], [b]) => {
		if (a === b) return 0;
		if (a === MISSING || b === MISSING) return a === MISSING ? 1 : -1;
		return sign * (a < b ? -1 : 1);
	});
	body.append(...keyed.map(([, row]) => row));
	for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
	heading.setAttribute("aria-sort", direction);
}

function makeSortable(table) {
	for (const heading of table.querySelectorAll("th[data-first]")) {
		const button = document.createElement("button");
		button.type = "button";
		button.append(...heading.childNodes);
		heading.append(button);
		button.addEventListener("click", () => {
			const now = heading.getAttribute("aria-sort");
			const first = heading.dataset.first;
			const other = first === "ascending" ? "descending" : "ascending";
			sortBy(table, heading, now === first ? other : first);
		});
	}
}

function makeFilter(group) {
	const form = group.querySelector(".filter");
	const input = form.querySelector("input");
	const status = form.querySelector("[role=status]");
	const rows = Array.from(group.querySelector("table").tBodies[0].rows);
	const texts = rows.map((row) => `${row.cells[1].textContent} ${row.dataset.bases}`.toLowerCase());
	const none = group.querySelector(".none");
	form.hidden = false;
	input.addEventListener("input", () => {
		const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
		let shown = 0;
		rows.forEach((row, i) => {
			row.hidden = !words.every((word) => texts[i].includes(word));
			shown += row.hidden ? 0 : 1;
		});
		status.textContent = words.length ? `${shown} of ${rows.length} motifs` : `${rows.length} motifs`;
		none.hidden = shown > 0;
	});
	form.addEventListener("submit", (event) => event.preventDefault());
}

function makeChoice(groups) {
	const form = document.querySelector(".choice");
	const choice = form.querySelector("select");
	const show = () => groups.forEach((group) => { group.hidden = group.dataset.group !== choice.value; });
	form.hidden = false;
	choice.addEventListener("change", show);
	show();
}

const groups = Array.from(document.querySelectorAll("[data-group]"));
for (const group of groups) {
	makeSortable(group.querySelector("table"));
	makeFilter(group);
}
if (groups.length > 1) makeChoice(groups);
