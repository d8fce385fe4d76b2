// Sorts tables by a click, or by Enter or Space, on the head of a column; a second one turns the
// order round. Without script the page lacks nothing but that.
"use strict";
(function () {
  function key(row, column) {
    var cell = row.cells[column];
    if (!cell) return "";
    return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : cell.textContent.trim();
  }
  function missing(text) {
    return text === "" || text === "nan" || text === "\u2013";
  }
  function compare(a, b, numeric) {
    return numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
  }
  function sort(table, column, head) {
    var body = table.tBodies[0];
    var down = head.getAttribute("aria-sort") === "ascending" ||
      (head.getAttribute("aria-sort") === null && head.classList.contains("n"));
    var rows = [], last = [];
    Array.prototype.forEach.call(body.rows, function (row) {
      (row.classList.contains("total") ? last : rows).push(row);
    });
    var keys = new Map(rows.map(function (row) { return [row, key(row, column)]; }));
    var told = rows.map(function (row) { return keys.get(row); }).filter(function (text) { return !missing(text); });
    var numeric = told.every(function (text) { return isFinite(Number(text)); });
    rows.sort(function (one, other) {
      var a = keys.get(one), b = keys.get(other);
      // What there is no number for comes last, whichever way the rest goes.
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return down ? compare(b, a, numeric) : compare(a, b, numeric);
    });
    rows.concat(last).forEach(function (row) { body.appendChild(row); });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) {
      other.removeAttribute("aria-sort");
    });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }
  Array.prototype.forEach.call(document.querySelectorAll("table.sortable"), function (table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () { sort(table, column, head); });
    });
  });
  // A printed page can open nothing.
  window.addEventListener("beforeprint", function () {
    Array.prototype.forEach.call(document.querySelectorAll("details"), function (part) { part.open = true; });
  });
})();
