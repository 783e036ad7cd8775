// Package formats tests the packages that packaging/build.sh makes. Its tests install, upgrade and remove those of rpm
// and pacman in a root directory with the formats' own tools, do by hand what apk does, and run lintian. The Debian
// packages are installed on the test laptop (packaging/laptop).
package formats
