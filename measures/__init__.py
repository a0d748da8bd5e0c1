"""What is computed: scores of one example, aggregates over many, their statistics. Imports core."""
