"""The networks: world model, actor and critic. They know no environment, replay or Trainer."""
