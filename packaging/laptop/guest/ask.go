package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

// Ask is one call of the policy server, as an administrator, over a connection that stays open: in an emulator, a curl and its handshake
// take a third of a second of a processor, many times over where a test waits for something.
type Ask struct {
	Method string   `json:"method"`
	URL    string   `json:"url"`
	Body   string   `json:"body"`
	Until  []string `json:"until"` // it is repeated until all of these match in one piece of the answer; pieces begin after each "{"
}

var client = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // of a server that the test started

func (a *Ask) do(r Request) Reply {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Seconds)*time.Second)
	defer cancel()
	var until []*regexp.Regexp
	for _, u := range a.Until {
		re, err := regexp.Compile(u)
		if err != nil {
			return Reply{r.ID, "", err.Error(), 2}
		}
		until = append(until, re)
	}
	for {
		body, err := a.once(ctx)
		switch {
		case len(until) == 0 && err != nil:
			return Reply{r.ID, body, err.Error(), 22}
		case err == nil && found(body, until):
			return Reply{r.ID, body, "", 0}
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = errors.New("nothing in the last answer matched")
			}
			return Reply{r.ID, body, err.Error(), 124}
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func found(body string, until []*regexp.Regexp) bool {
	if len(until) == 0 {
		return true
	}
pieces:
	for piece := range strings.SplitSeq(body, "{") {
		for _, re := range until {
			if !re.MatchString(piece) {
				continue pieces
			}
		}
		return true
	}
	return false
}

func (a *Ask) once(ctx context.Context) (string, error) {
	token, err := os.ReadFile("/root/token")
	if err != nil {
		return "", err
	}
	q, err := http.NewRequestWithContext(ctx, a.Method, a.URL, strings.NewReader(a.Body))
	if err != nil {
		return "", err
	}
	if a.Method != http.MethodGet {
		client.CloseIdleConnections() // what changes something is not sent twice, so it must not meet a connection that has just ended
	}
	q.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := client.Do(q)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s", res.Status)
	}
	return string(b), err
}
