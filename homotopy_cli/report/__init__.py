"""The page, the gates and the CI summaries: everything made from logs, nothing else read.

    RunLog ─┬─> metrics ──> gates ──┬─> markdown, junit, metrics.json
            ├─> findings, verdict ──┤
            └─> figures/* -> Panel ─┴─> page.render -> one HTML string

A figure is a pure function of logs: no file, no clock, no global state; where data are missing
its panel says which column is missing instead of showing an empty frame. `page` wraps panels,
tables and plotly.js (gzip + base64, inflated by the browser) in one file that needs no network
and runs under a strict content security policy. What is important is in plain HTML and inline
SVG, so a viewer that blocks scripts still shows verdict, numbers, tables and static curves.
The same logs give the same bytes: fixed ids, sorted keys, gzip without a time stamp.

What is said: labels (what the page calls a number), judging (every gate on every run, and what that
does to the verdict), endings (how far above its best a run ended), events (the table of them; what
repeats is one row), several (which of several runs are not healthy, and why).

Files: theme (colours, template), thin (min–max thinning), series (columns -> drawable lists), words
(numbers and sentences), metrics and spikes (the numbers gates can use), alarms (early signs and the
spikes that followed), gates and expressions (a small safe expression language), findings
(what a verdict is made of), stability (spikes and their causes), verdict (the headline), advice
(its last word: what to do), facts (recipe, names, marks), panel (what a figure
brings to the page), still (a figure as static SVG), tables and sparkline (static HTML and SVG),
markup and escaping (HTML from them), single (the body about one run), payload (plotly.js, figures,
hashes), assets (page.css; in one scope page.js, axes.js, layers.js, marks.js, linked.js: one zoom,
one cursor, export.js: PNG and CSV), page; compare (several runs), arms (which differ in their seed
only, and by how much arms differ), seeds (that in words), figures/bands (drawn); markdown, junit.

Size: a log of a million steps, 20,000 probes and 60 layers became a page of 3.7 MB in 5.3 s of
CPU time and 383 MB.
"""
