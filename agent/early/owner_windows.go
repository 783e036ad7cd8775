package early

// owned: there is no early start here.
func owned(string) error { return nil }
