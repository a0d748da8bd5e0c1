"""What is shown of finished results: figures, tables, the page. Imports core and measures."""
