"""What a person keeps of a run: one folder of tables, figures and a page that explains them."""
