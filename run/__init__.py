"""How a run is carried out: settings, plan, examples, journal, team. Imports all rooms below."""
