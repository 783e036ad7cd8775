//go:build !linux

package service

func installEarly(string) error { return nil } // this system has no early start

func removeEarly() error { return nil }
