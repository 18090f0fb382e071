"""Policy ABIs: how a question gets into a guest, and its answer out."""
