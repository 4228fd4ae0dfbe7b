"""Command lines as tables: what a verb accepts is declared once, and read without the price of a framework."""
