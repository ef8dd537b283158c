"""What all assets have in common: stages and versions, the steps that make them, their specs and checks, the plan."""
