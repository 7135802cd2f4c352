"""What a run of sampling would be before it is begun: its protocol, cost, time and room."""
