"""Who is told: TensorBoard, the terminal, the log, and the report that an owner reads."""
