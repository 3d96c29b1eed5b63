"""The workshop: mine, tune, distill, prune and export models. Only the command line imports it."""
