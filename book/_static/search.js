/* The book's search: sections ranked by their words, with excerpts; from the disk, too. */
(() => {
  "use strict";
  const CNN = (window.CNN = window.CNN || {});
  const FIELDS = { title: 6, terms: 3, text: 1, names: 0.4 };
  const SATURATION = 1.4, LENGTH = 0.4, SHOWN = 30, EXCERPT = 230;
  const ASIDE = /^book\/(api|equations|notation|errata|bibliography|package)/;
  const LATER = /^(Exercise\b|[\d.]*\s*(Exercises|Further reading|Summary|What could go wrong))/;

  /** A word as the index knows it: without its ending; as it stands where case tells: dW. */
  function stem(word) {
    if (/[a-z_][A-Z]/.test(word)) return word;
    const low = word.toLowerCase();
    return low.length < 5 ? low : low.replace(/(ies|ing|ed|es|s|e)$/, "");
  }

  /** The words of a text; what is written in mixed case counts in both ways. */
  function words(text) {
    return (text.match(/[\p{L}\p{N}_]+/gu) || []).flatMap((word) => {
      const own = stem(word), plain = stem(word.toLowerCase());
      return own === plain ? [own] : [own, plain];
    });
  }

  /** Index the sections once: for each word, in which section how often, fields weighted. */
  function build(pages) {
    const sections = [], found = new Map();
    let total = 0;
    for (const [page, rows] of pages) {
      rows.forEach(([anchor, title, text, names, terms], place) => {
        const section = { page, anchor, title, text, names, terms, chapter: rows[0][1], place };
        section.first = place === 0;
        if (section.first) section.terms += " " + page.replace(/\W/g, " "); // its short name
        const n = sections.push(section) - 1;
        const counts = new Map();
        for (const [field, weight] of Object.entries(FIELDS))
          for (const word of words(section[field]))
            counts.set(word, (counts.get(word) || 0) + weight);
        section.size = Math.sqrt(40 + text.length);
        total += section.size;
        for (const [word, count] of counts) {
          if (!found.has(word)) found.set(word, new Map());
          found.get(word).set(n, count);
        }
      });
    }
    return { sections, found, mean: total / Math.max(1, sections.length) };
  }

  /** The words of the index that begin as a word that it lacks does. */
  function matches(index, word) {
    if (index.found.has(word) || word.length < 2) return [word];
    return [...index.found.keys()].filter((known) => known.startsWith(word)).slice(0, 40);
  }

  /** How much more a section counts that has the words of a query side by side. */
  function together(section, query) {
    const phrase = query.toLowerCase().split(/\s+/).join(" ");
    if (!phrase.includes(" ")) return 1;
    if (section.title.toLowerCase().includes(phrase)) return 2.5;
    if (section.terms.toLowerCase().includes(phrase)) return 1.8;
    return section.text.toLowerCase().includes(phrase) ? 1.4 : 1;
  }

  /**
   * The sections that answer a query, best first.
   * @param {string} query @param {Array} [pages] @returns {Array<object>}
   */
  CNN.search = (query, pages = CNN.sections) => {
    if (!CNN.searchIndex || CNN.searchIndex.pages !== pages)
      CNN.searchIndex = Object.assign(build(pages), { pages });
    const index = CNN.searchIndex, scores = new Map(), hits = new Map();
    const asked = [...new Set((query.match(/[\p{L}\p{N}_]+/gu) || []).map(stem))];
    for (const word of asked) {
      const best = new Map();
      for (const known of matches(index, word)) {
        const places = index.found.get(known) || new Map();
        const rare = Math.log(1 + index.sections.length / (1 + places.size));
        for (const [n, count] of places) {
          const size = 1 - LENGTH + (LENGTH * index.sections[n].size) / index.mean;
          const score = (rare * count) / (count + SATURATION * size);
          best.set(n, Math.max(best.get(n) || 0, score));
        }
      }
      for (const [n, score] of best) {
        scores.set(n, (scores.get(n) || 0) + score);
        hits.set(n, (hits.get(n) || 0) + 1);
      }
    }
    const ranked = [...scores].map(([n, score]) => {
      const section = index.sections[n];
      score *= (hits.get(n) / asked.length) ** 3 * together(section, query);
      if (ASIDE.test(section.page)) score *= 0.5;
      score *= 1 - 0.001 * Math.min(section.place, 40); // first things first
      if (LATER.test(section.title)) score *= 0.6;
      return { ...section, score };
    });
    return ranked.sort((a, b) => b.score - a.score).slice(0, SHOWN);
  };

  /** The part of a section's text with most of the words, marked: a node. */
  function excerpt(section, query) {
    const asked = new Set((query.match(/[\p{L}\p{N}_]+/gu) || []).map(stem));
    const parts = [...section.text.matchAll(/[\p{L}\p{N}_]+/gu)];
    const places = parts.filter((part) => asked.has(stem(part[0]))).map((part) => part.index);
    const count = (from) => places.filter((at) => at >= from && at < from + EXCERPT - 60).length;
    const best = places.reduce((top, at) => (count(at) > count(top) ? at : top), places[0] || 0);
    let from = Math.max(0, best - 60);
    if (from) from = section.text.indexOf(" ", from) + 1;
    const text = section.text.slice(from, from + EXCERPT);
    const line = document.createElement("p");
    if (from) line.append("… ");
    let last = 0;
    for (const part of text.matchAll(/[\p{L}\p{N}_]+/gu)) {
      if (!asked.has(stem(part[0]))) continue;
      const mark = document.createElement("mark");
      mark.textContent = part[0];
      line.append(text.slice(last, part.index), mark);
      last = part.index + part[0].length;
    }
    line.append(text.slice(last), from + EXCERPT < section.text.length ? " …" : "");
    return line;
  }

  const base = () => document.documentElement.dataset.content_root || "./";

  /** Show what answers a query in a box. */
  function show(box, query) {
    const found = query.trim() ? CNN.search(query) : [];
    const status = document.createElement("p");
    status.className = "found-count";
    status.setAttribute("role", "status");
    if (query.trim()) {
      const many = found.length === SHOWN ? `The best ${SHOWN}` : String(found.length);
      status.textContent = found.length ? `${many} found` : "Nothing found";
    }
    const list = document.createElement("ol");
    list.className = "found";
    for (const section of found) {
      const row = document.createElement("li"), link = document.createElement("a");
      link.href = `${base()}${section.page}.html${section.first ? "" : "#" + section.anchor}`;
      link.textContent = section.title;
      row.append(link);
      if (!section.first) {
        const where = document.createElement("span");
        where.className = "found-chapter";
        where.textContent = section.chapter;
        row.append(where);
      }
      row.append(excerpt(section, query));
      list.append(row);
    }
    box.replaceChildren(status, ...(found.length ? [list] : []));
  }

  /** Load the index of the sections, when somebody first searches. */
  function load() {
    CNN.loading = CNN.loading || new Promise((done) => {
      const script = document.createElement("script");
      script.src = `${base()}_static/sections.js`;
      script.onload = done;
      document.head.append(script);
    });
    return CNN.loading;
  }

  /** Let a form answer while one types; its box stands beside it. */
  function attach(form, box) {
    const input = form.querySelector("input");
    input.placeholder = "Search the book";
    input.setAttribute("aria-label", "Search the book");
    const answer = () => load().then(() => show(box, input.value));
    input.addEventListener("input", answer);
    input.addEventListener("focus", load);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer().then(() => box.querySelector("a")?.focus());
    });
    return answer;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const dialog = document.querySelector("#pst-search-dialog");
    if (dialog) {
      const box = document.createElement("div");
      box.className = "found-box";
      dialog.append(box);
      attach(dialog.querySelector("form"), box);
      box.addEventListener("click", (event) => event.target.closest("a") && dialog.close());
    }
    const results = document.querySelector("#search-results");
    if (results) {
      const form = document.querySelector(".bd-search-container form");
      const answer = attach(form, results);
      form.querySelector("input").value = new URLSearchParams(location.search).get("q") || "";
      answer();
    }
  });
})();
