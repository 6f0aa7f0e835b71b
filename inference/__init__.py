"""The engine alone: models, scheduler, worker pool. It knows nothing of networks."""
