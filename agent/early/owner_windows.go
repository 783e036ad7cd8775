package early

// owned accepts every file: this system has no early start.
func owned(string) error { return nil }
