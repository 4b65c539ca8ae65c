//! The agent beside some services; it dials out and listens nowhere.
