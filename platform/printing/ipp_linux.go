package printing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/OpenPrinting/goipp"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Socket is where CUPS listens; Debian, Fedora, Arch and SUSE all have it there.
const Socket = "/run/cups/cups.sock"

const (
	maxAnswer = 4 << 20 // a thousand queues take some 300 KiB
	maxQueues = 1000
	patience  = 3 * time.Second // of one question; the spooler answers in milliseconds
)

// errNoSpooler says that nothing listens: there is no spooler, or it does not run.
var errNoSpooler = errors.New("no print spooler runs")

// errRefused begins what a spooler answers that does not do it.
var errRefused = errors.New("the spooler answers")

var errNoAnswer = errors.New("the spooler does not answer")

var errNoSubscription = errors.New("the spooler does not say which subscription it has made")

// spooler is the spooler behind a socket.
type spooler struct {
	socket string
	web    *http.Client
}

func newSpooler(socket string) *spooler {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	// Nothing is kept open: a connection would keep a spooler from ending that systemd starts when it is asked.
	return &spooler{socket: socket, web: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// queues lists all of them, and how many more there are that nothing can be done about.
func (s *spooler) queues(ctx context.Context) ([]fact.Queue, int, error) {
	q := request(goipp.OpCupsGetPrinters)
	var want goipp.Attribute
	want.Name = "requested-attributes"
	for _, name := range []string{"printer-name", "printer-is-accepting-jobs", "printer-state", "printer-state-message", "queued-job-count", "device-uri"} {
		want.Values.Add(goipp.TagKeyword, goipp.String(name))
	}
	q.Operation.Add(want)
	a, err := s.ask(ctx, "/", q)
	if err != nil {
		return nil, 0, err
	}
	list, odd := readQueues(a)
	return list, odd, nil
}

// readQueues reads an answer's queues. One that does not say enough counts, and does not hide the others.
func readQueues(a *goipp.Message) (out []fact.Queue, odd int) {
	for _, g := range a.Groups {
		if g.Tag != goipp.TagPrinterGroup {
			continue
		}
		q, accepting, state := fact.Queue{}, false, false
		for _, x := range g.Attrs {
			if len(x.Values) == 0 {
				continue
			}
			switch v := x.Values[0].V; x.Name {
			case "printer-name":
				q.Name = text(v)
			case "printer-is-accepting-jobs":
				b, is := v.(goipp.Boolean)
				q.Accepting, accepting = bool(b), is
			case "printer-state":
				n, is := v.(goipp.Integer)
				q.Stopped, state = n == stateStopped, is && n >= stateIdle && n <= stateStopped
			case "printer-state-message":
				q.Told = text(v) == fact.QueueWhy
			case "queued-job-count":
				n, _ := v.(goipp.Integer)
				q.Jobs = int(n)
			case "device-uri":
				q.Device, _, _ = strings.Cut(text(v), ":") // the rest can hold a password
			}
		}
		if !accepting || !state || !isName(q.Name) || len(out) == maxQueues {
			odd++
			continue
		}
		out = append(out, q)
	}
	return out, odd
}

// The states of a queue (RFC 8011, section 5.4.11).
const (
	stateIdle    = 3
	stateStopped = 5
)

// maxName is the longest name of a queue that CUPS takes, in bytes.
const maxName = 127

func text(v goipp.Value) string {
	if s, is := v.(goipp.String); is {
		return string(s)
	}
	return ""
}

// admin has the spooler do something with a queue. A queue that is closed or stopped by that says why; "" is the spooler's own words.
func (s *spooler) admin(ctx context.Context, op goipp.Op, name, why string) error {
	q := request(op)
	q.Operation.Add(goipp.MakeAttribute("printer-uri", goipp.TagURI, goipp.String("ipp://localhost/printers/"+url.PathEscape(name))))
	q.Operation.Add(goipp.MakeAttribute("requesting-user-name", goipp.TagName, goipp.String("root")))
	if why != "" {
		q.Printer.Add(goipp.MakeAttribute("printer-state-message", goipp.TagText, goipp.String(why)))
	}
	_, err := s.ask(ctx, "/admin/", q)
	return err
}

// job is what is known of a print job.
type job struct {
	id    int
	queue string
	user  string // who has printed it, as they say
	held  bool
	// ours says that we have asked for it to be held. Otherwise its owner has.
	ours bool
}

// ofJob puts a question about one job, or has something done with it.
func (s *spooler) ofJob(ctx context.Context, op goipp.Op, id int) (*goipp.Message, error) {
	q := request(op)
	q.Operation.Add(goipp.MakeAttribute("job-uri", goipp.TagURI, goipp.String(fmt.Sprintf("ipp://localhost/jobs/%d", id))))
	q.Operation.Add(goipp.MakeAttribute("requesting-user-name", goipp.TagName, goipp.String("root")))
	return s.ask(ctx, "/jobs/", q)
}

// job reads what is known of a job.
func (s *spooler) job(ctx context.Context, id int) (job, error) {
	a, err := s.ofJob(ctx, goipp.OpGetJobAttributes, id)
	if err != nil {
		return job{id: id}, err
	}
	j := job{id: id}
	for _, x := range a.Job {
		switch v := valueOf(x); x.Name {
		case "job-printer-uri":
			if u, err := url.Parse(text(v)); err == nil {
				j.queue = enforce.Plain(clip(path.Base(u.Path)))
			}
		case "job-originating-user-name":
			j.user = enforce.Plain(clip(text(v)))
		case "job-state":
			n, _ := v.(goipp.Integer)
			j.held = n == stateHeld
		}
	}
	return j, nil
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxName)], "") }

// stateHeld is the state of a job that is held (RFC 8011, section 5.3.7).
const stateHeld = 4

// request begins a request as the standard wants it.
func request(op goipp.Op) *goipp.Message {
	q := goipp.NewRequest(goipp.DefaultVersion, op, 1)
	q.Operation.Add(goipp.MakeAttribute("attributes-charset", goipp.TagCharset, goipp.String("utf-8")))
	q.Operation.Add(goipp.MakeAttribute("attributes-natural-language", goipp.TagLanguage, goipp.String("en")))
	return q
}

// statusNotFound is what the spooler answers for a list that is empty, too.
const statusNotFound = goipp.Status(0x0406)

// ask puts one question.
func (s *spooler) ask(ctx context.Context, at string, q *goipp.Message) (*goipp.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := q.EncodeBytes()
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+at, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", goipp.ContentType)
	r.Header.Set("Authorization", "PeerCred root")
	w, err := s.web.Do(r)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) { // any other error says that it is there
			return nil, errNoSpooler
		}
		return nil, fmt.Errorf("%w at %s: %w", errNoAnswer, s.socket, err)
	}
	defer w.Body.Close()
	op := goipp.Op(q.Code)
	if w.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the spooler at %s answers %s to %s", s.socket, w.Status, op)
	}
	b, err := io.ReadAll(io.LimitReader(w.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", errNoAnswer, s.socket, err)
	}
	return answer(b, op)
}

// answer reads an answer.
func answer(b []byte, op goipp.Op) (*goipp.Message, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("the spooler's answer to %s is longer than %d bytes", op, maxAnswer)
	}
	var a goipp.Message
	if err := a.DecodeBytes(b); err != nil {
		return nil, fmt.Errorf("the spooler's answer to %s cannot be read: %w", op, err)
	}
	switch status := goipp.Status(a.Code); {
	case status == statusNotFound && op == goipp.OpCupsGetPrinters:
		return &goipp.Message{}, nil // it has none
	case status >= 0x0100:
		return nil, fmt.Errorf("%w %s to %s", errRefused, status, op)
	}
	return &a, nil
}
