pub(crate) const ADDRESS: &str = "127.0.0.11";
