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

// filespeed does something a number of times, and prints how many microseconds it took, and how many of them a processor was busy
// with it: "write" writes so many MiB to a file, "random" so many times 4 KiB at random places of one (the same ones each time),
// "exec" runs so many programs.
func filespeed(args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if args[0] == "exec" {
		begun := now()
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
	places := rand.New(rand.NewPCG(1, 2))
	begun := now()
	for i := range n {
		at := int64(i) << 20
		if args[0] == "random" {
			at = places.Int64N(area/4096) * 4096
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

// moment is a moment, by the clock and by what the processors have done for this process and those it has waited for.
type moment struct {
	clock time.Time
	busy  time.Duration
}

func now() moment {
	m := moment{clock: time.Now()}
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			panic(err)
		}
		m.busy += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return m
}

func took(begun moment) error {
	end := now()
	fmt.Println(end.clock.Sub(begun.clock).Microseconds(), (end.busy - begun.busy).Microseconds())
	os.Exit(0)
	return nil
}
