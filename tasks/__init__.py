"""What is asked: tasks as data, where their rows come from, and the embedded ones. Imports core."""
