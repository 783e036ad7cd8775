// Command guest runs inside the laptop for the tests: it reads shell scripts from a virtio serial port, runs them side
// by side as root, and answers with what they printed.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Request is one script, or one call of the policy server, and Reply its result.
type Request struct {
	ID      int    `json:"id"`
	Script  string `json:"script"`
	Ask     *Ask   `json:"ask"`
	Seconds int    `json:"seconds"`
}

type Reply struct {
	ID   int    `json:"id"`
	Out  string `json:"out"`
	Err  string `json:"err"`
	Code int    `json:"code"`
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "outside" {
		log.Fatal(outside(os.Args[2:]))
	}
	port, err := os.OpenFile("/dev/virtio-ports/laptop", os.O_RDWR, 0)
	// udev makes the link, on Debian 13 only after this starts: the driver is built into its kernel.
	for end := time.Now().Add(time.Minute); errors.Is(err, fs.ErrNotExist) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		port, err = os.OpenFile("/dev/virtio-ports/laptop", os.O_RDWR, 0)
	}
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	out := json.NewEncoder(port)
	reply := func(r Reply) {
		mu.Lock()
		defer mu.Unlock()
		if err := out.Encode(r); err != nil {
			log.Print(err)
		}
	}
	reply(Reply{ID: 0, Out: "ready"})
	in := bufio.NewReaderSize(port, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			// The host side is not connected: a virtio port reads as ended until it is.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		var r Request
		if json.Unmarshal(line, &r) == nil {
			go func() {
				if r.Ask != nil {
					reply(r.Ask.do(r))
				} else {
					reply(run(r))
				}
			}()
		}
	}
}

// run runs one script, and ends it at its limit.
func run(r Request) Reply {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Seconds)*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", r.Script)
	cmd.Env = append(os.Environ(), "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	err := cmd.Run()
	code := 0
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		code = 124
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		code = 126
		stderr.WriteString(err.Error())
	}
	return Reply{r.ID, stdout.String(), stderr.String(), code}
}
