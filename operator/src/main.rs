fn main() {
    for (_, definition) in operator::crd::definitions() {
        print!("---\n{}", operator::crd::to_yaml(&definition).unwrap_or_default());
    }
}
