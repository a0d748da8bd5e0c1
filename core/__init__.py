"""What everything stands on: errors, result files, the way to the Hub. Imports nothing of ours."""
