"""One file per panel: each turns a RunLog into a plotly figure and a one-sentence finding."""
