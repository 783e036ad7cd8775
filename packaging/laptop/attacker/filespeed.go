//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// filespeed does something a number of times, and prints how many microseconds it took: "write" writes so many MiB to a file,
// "random" so many times 4 KiB at random places of one, "exec" runs so many programs.
func filespeed(args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if args[0] == "exec" {
		begun := time.Now()
		for range n {
			if err := exec.Command(args[1]).Run(); err != nil {
				return err
			}
		}
		return took(begun)
	}
	f, err := os.OpenFile(args[1], os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	const area = 64 << 20
	piece := make([]byte, 1<<20)
	if args[0] == "random" {
		piece = piece[:4096]
		if err := unix.Fallocate(int(f.Fd()), 0, 0, area); err != nil {
			return err
		}
	}
	begun := time.Now()
	for i := range n {
		at := int64(i) << 20
		if args[0] == "random" {
			at = rand.Int64N(area/4096) * 4096
		}
		if _, err := f.WriteAt(piece, at); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return took(begun)
}

func took(begun time.Time) error {
	fmt.Println(time.Since(begun).Microseconds())
	os.Exit(0)
	return nil
}
