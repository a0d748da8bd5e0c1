"""How a model is loaded, run and read; the only room with torch. Imports core."""
