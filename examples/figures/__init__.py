"""The figures and tables of the papers: a module for each paper, and what they share."""
