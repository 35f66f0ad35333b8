"""The page where experts review drafts and users give feedback on predictions. Its store is `tasks.reviews`."""
