"""Pictures of notebook 05: `graphs`, circuits as graphs; `heat_maps`, of scores and of attention; `faithfulness`."""
