"""Drawings for a page: figures as SVG, formulas as MathML."""
