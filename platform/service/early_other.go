//go:build !linux

package service

func installEarly(string) error { return nil } // there is no early start here

func removeEarly() error { return nil }
